"""Video of the simulator: renderer, instruments and drawing."""
