"""The paper, table by table, and the studies beyond it; imports the library, never back."""
