"""The typed configuration: YAML in, frozen dataclasses out."""
