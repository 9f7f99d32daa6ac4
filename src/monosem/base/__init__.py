"""What every layer shares: errors, names, seeds, specifications, files. Imports nothing from monosem."""
