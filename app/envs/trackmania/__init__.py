"""The real game: Trackmania (2020), through rtgym and tmrl, with this project's observation."""
