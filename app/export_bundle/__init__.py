"""A trained actor as files that drive without this program: a bundle for tmrl's worker, and ONNX."""

from app import tmrl_api as tmrl_api  # first: driver.py imports tmrl itself, as it must where this program is not
