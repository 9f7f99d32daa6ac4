"""The objective as a sum of terms, each a value; what is logged is what is trained."""
