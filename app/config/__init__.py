"""The typed configuration: Hydra composes YAML, and frozen dataclasses check it."""
