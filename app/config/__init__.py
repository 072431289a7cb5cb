"""The typed configuration: Hydra composes YAML, and frozen dataclasses check it.

Importing this package registers the resolver ``task_name``, with which ``conf/env/gym.yaml`` names a task.
"""

from omegaconf import OmegaConf

from app.config.task_id import task_name

OmegaConf.register_resolver("task_name", task_name, replace=True)
