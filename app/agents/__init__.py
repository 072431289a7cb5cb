"""The learning algorithm: pure losses, and the agent that applies them."""
