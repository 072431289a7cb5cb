"""Validation: what a search found, trained again on seeds that it did not see, beside the default."""
