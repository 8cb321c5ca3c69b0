"""Everything that Knarr does inside PostgreSQL, one room a file.

| room            | what happens there                                                                   |
| --------------- | ------------------------------------------------------------------------------------ |
| session         | pinned connections, and the pools that lend them                                     |
| identifiers     | the one place where a name becomes SQL                                               |
| failures        | what a server's error means for the run                                              |
| schema          | installing the `knarr` schema                                                        |
| lease           | who may write: claim, fence, raise, release                                          |
| mappings        | the resolved plan, stored and read back                                              |
| partitions      | where a mapping is cut, and the predicate of each piece                              |
| selection       | which source rows a phase takes, and the SELECT that reads them                      |
| copy, transform | moving one partition                                                                 |
| ledger          | what was written, exactly once                                                       |
| objects         | tables, keys and indexes that the run makes and takes back                           |
| sequences       | continuing after the rows                                                            |
| remove          | taking rows back                                                                     |

Import from the rooms themselves; this face exports nothing, so that nobody pays for rooms that they do not enter.
"""
