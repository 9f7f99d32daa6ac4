"""Speed beside other libraries, and what each part of a step costs; imports the library, never back."""
