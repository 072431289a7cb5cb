"""Run folder: paths, lock, manifest, checkpoints, fingerprint, and the restart that clears it."""
