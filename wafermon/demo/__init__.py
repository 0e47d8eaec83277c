"""What `wafermon demo` shows: a tester's datalogs, and the crew of services that take them in."""
