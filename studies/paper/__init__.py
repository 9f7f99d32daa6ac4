"""The paper's experiments, a file for each table and figure, and the questions that it leaves open."""
