"""Export of a trained actor as a folder of files that drives with tmrl and onnxruntime, without this program."""

from app.core import tmrl_api as tmrl_api  # first: driver.py imports tmrl itself, as it must in the exported folder
