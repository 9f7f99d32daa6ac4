"""The speed benchmark: whole training steps of monosem and of other libraries, interleaved, in units of one product."""
