def explain(error, name, args): return error
