"""SQLite under test. "write" changes a database in turns: it says "begin 0" and "over 0 DIGEST", and goes on when it is
answered. "judge" reads paths of databases and says what is in each."""

import hashlib
import os
import random
import sqlite3
import sys


def digest(db):
    """What is in the database; nothing before the first turn."""
    if db.execute("select count(*) from sqlite_master where name = 'items'").fetchone()[0] == 0:
        return "empty"
    digest = hashlib.sha256()
    for row in db.execute("select id, turn, data from items order by id"):
        digest.update(repr(row).encode())
    for row in db.execute("select id, value from accounts order by id"):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def tell(text):
    print(text, flush=True)
    if not sys.stdin.readline():
        os._exit(3)


def first_turn(db):
    db.execute("create table items (id integer primary key, turn integer, data blob)")
    db.execute("create index by_turn on items (turn, id)")
    db.execute("create table accounts (id integer primary key, value integer)")
    db.executemany("insert into accounts values (?, 100)", [(n,) for n in range(40)])


def one_turn(db, turn, chance):
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        data = chance.randbytes(chance.choice([10, 300, 3000, 15000]))
        db.execute("insert into items (turn, data) values (?, ?)", (turn, data))
    for _ in range(3):
        amount, source, target = chance.randrange(50), chance.randrange(40), chance.randrange(40)
        db.execute("update accounts set value = value - ? where id = ?", (amount, source))
        db.execute("update accounts set value = value + ? where id = ?", (amount, target))
    if chance.random() < 0.4:
        db.execute("delete from items where turn < ?", (turn - 8,))


def write(path, journal, synchronous, turns, seed):
    chance = random.Random(int(seed))
    tell("begin 0")
    db = sqlite3.connect(path, isolation_level=None)
    # Few pages in memory: large transactions spill into the file before they are committed.
    for setting in ("cache_size = 20", f"journal_mode = {journal}", f"synchronous = {synchronous}",
                    "wal_autocheckpoint = 40"):
        db.execute(f"pragma {setting}")
    for turn in range(1, int(turns) + 1):
        if turn > 1:
            tell("begin 0")
        db.execute("begin immediate")
        if turn == 1:
            first_turn(db)
        one_turn(db, turn, chance)
        db.execute("commit")
        tell("over 0 " + digest(db))
    # Not closed: the last write-ahead log stays.
    os._exit(0)


def judge(path):
    try:
        db = sqlite3.connect(path)
        problems = db.execute("pragma integrity_check").fetchall()
        found = digest(db)
        if found != "empty" and db.execute("select sum(value) from accounts").fetchone()[0] != 4000:
            problems.append("the accounts do not add up")
        db.close()
        return found if problems == [("ok",)] else f"bad {problems[:3]}"
    except sqlite3.Error as error:
        return f"bad {error}"


if sys.argv[1] == "write":
    write(*sys.argv[2:])
else:
    for line in sys.stdin:
        print(judge(line.rstrip("\n")), flush=True)
