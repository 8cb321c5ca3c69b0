"""Verification: every row and every column, both sides, and a verdict that can't be had without checking.

| room                        | what happens there                                                            |
| --------------------------- | ----------------------------------------------------------------------------- |
| models                      | findings, results, verdicts                                                   |
| canonical                   | what "equal" means, type by type                                              |
| expected, ranges            | which rows should be there, which are there                                   |
| checksum                    | row hashes and their sums, in SQL                                             |
| snapshot                    | one snapshot of a side, settings pinned                                       |
| parity                      | one partition, both sides at once                                             |
| sides, unlike               | what is asked of a side; telling missing, extra, doubled and changed apart    |
| transformed                 | the expected side of a mapping with a Python transform                        |
| integrity                   | keys, constraints; with foreign_keys, sequences, collected, integrity_sql     |
| rules, cross, downstream    | the plan author's own checks                                                  |
| attempt, at_once            | errors become results; two servers are asked at once                          |
| results, verdict            | what was computed, kept; the verdict derived from it                          |
| alone                       | all of it without a run                                                       |

Import from the rooms themselves; this face exports nothing.
"""
