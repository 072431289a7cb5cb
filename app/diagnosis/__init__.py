"""What this machine can do: checks that only look, each with what was found and what to do about it."""
