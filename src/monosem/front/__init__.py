"""The first calls: whatever rows, models and networks come in, brought to what the library below takes."""
