"""Server, workers and trainer of a run that is distributed over processes or machines."""
