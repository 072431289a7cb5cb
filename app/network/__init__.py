"""Server, workers and trainer in processes of their own, on one machine or on several."""
