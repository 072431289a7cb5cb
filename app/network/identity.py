"""What a worker and a trainer must have in common."""

import hashlib
import json

from app.config.schema import Config
from app.runs.fingerprint import fingerprint


def keys_of(config: Config) -> str:
    """Return the fingerprint of a configuration as JSON."""
    return json.dumps(fingerprint(config), sort_keys=True, allow_nan=False)


def digest(keys: str) -> str:
    """Return a short name for a fingerprint."""
    return hashlib.sha256(keys.encode()).hexdigest()[:20]
