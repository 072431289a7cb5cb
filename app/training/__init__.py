"""The loop: collect, update, evaluate, keep the best, write it all down."""
