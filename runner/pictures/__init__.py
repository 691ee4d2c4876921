"""Pictures: of samples, of what was predicted, of what goes on in a model, and plots."""
