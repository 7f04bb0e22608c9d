"""What `xalign data preview` shows: rows of any feed's batch as plain values."""
