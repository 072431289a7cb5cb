"""The real game: Trackmania (2020), through rtgym and tmrl, under this project's observation."""
