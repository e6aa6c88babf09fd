"""Many runs, on disk: settings, records, tables, sweeps and their workers."""
