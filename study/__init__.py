"""The study of docs/study.md: its experiments, one command that runs what is not recorded yet, its tables and plots."""
