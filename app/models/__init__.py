"""Networks: trunk, context encoder, FiLM, heads, and the factory that assembles them."""
