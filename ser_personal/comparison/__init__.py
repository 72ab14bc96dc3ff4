"""Many runs in one table: `ser compare`."""
