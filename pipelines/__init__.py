"""The jobs around the model: one module a command. The only home of `import ray` and `import mlflow`."""
