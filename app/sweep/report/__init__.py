"""Results of a study: the best trial as a configuration, every trial as a row, and a page with figures."""
