"""seqio registrations: importing this package registers every task."""
