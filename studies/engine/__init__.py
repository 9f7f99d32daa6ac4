"""What every study shares: scales, runs, the queue that resumes, tables, figures and sentences."""
