"""What this project adds: data, a model and a loss."""
