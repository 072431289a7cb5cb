"""Gymnasium environments: the observation contract (``spec``) and a factory of every kind (``env_factory``)."""
