"""The Triton programs: plain functions until `launch` compiles them, so that they load where Triton is absent.

Each sums in an order that only sizes and offsets decide, and none uses atomics. *_row is a matrix's stride from row to
row, in elements; capitals are compile-time constants.
"""
