"""The work of `prepare`: units that any process can do, and what puts their results together in order."""
