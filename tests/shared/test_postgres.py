"""One room's database: its own schema, migrations once and unchanged, honest errors, healing after a restart."""

import asyncio

import pytest

from darkroom import embedded_postgres, errors, postgres


@pytest.fixture
def migrations(tmp_path):
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "0001_first.sql").write_text("CREATE TABLE thing (id int PRIMARY KEY, facts jsonb NOT NULL)")
    return directory


@pytest.fixture
async def database(database_url, migrations):
    async with postgres.connect(database_url, schema="room") as database:
        await database.migrate(migrations)
        yield database


async def test_rows_come_by_name_and_jsonb_as_objects(database):
    await database.execute("INSERT INTO thing VALUES ($1, $2)", 1, {"a": [1, None]})
    row = await database.fetchrow("SELECT * FROM thing")
    assert (row["id"], row["facts"]) == (1, {"a": [1, None]})
    assert await database.fetchval("SELECT count(*) FROM room.thing") == 1


async def test_a_transaction_is_all_or_nothing(database):
    async def fails():
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO thing VALUES (1, '{}')")
            raise KeyError

    with pytest.raises(KeyError):
        await fails()
    assert await database.fetch("SELECT * FROM thing") == []


async def test_migrations_run_once_even_from_many_processes(database_url, migrations):
    (migrations / "0002_second.sql").write_text("INSERT INTO thing VALUES (7, '{}')")
    async with (
        postgres.connect(database_url, schema="room") as one,
        postgres.connect(database_url, schema="room") as two,
    ):
        await asyncio.gather(one.migrate(migrations), two.migrate(migrations), one.migrate(migrations))
        assert await one.fetchval("SELECT count(*) FROM thing") == 1
        assert [row["name"] for row in await one.fetch("SELECT name FROM migration ORDER BY version")] == [
            "0001_first.sql",
            "0002_second.sql",
        ]


async def test_a_later_migration_is_added(database, migrations):
    (migrations / "0002_second.sql").write_text("ALTER TABLE thing ADD COLUMN more int")
    await database.migrate(migrations)
    assert await database.fetchval("SELECT max(version) FROM migration") == 2


async def test_a_migration_may_take_longer_than_other_statements(database_url, migrations, monkeypatch):
    (migrations / "0002_second.sql").write_text("SELECT pg_sleep(2)")
    monkeypatch.setattr(postgres, "COMMAND_TIMEOUT_S", 1.0)
    async with (
        postgres.connect(database_url, schema="room") as one,
        postgres.connect(database_url, schema="room") as two,
    ):
        await asyncio.gather(one.migrate(migrations), two.migrate(migrations))  # who comes second waits as long
        assert await two.fetchval("SELECT max(version) FROM migration") == 2


async def test_a_changed_migration_is_refused(database, migrations):
    (migrations / "0001_first.sql").write_text("CREATE TABLE other ()")
    with pytest.raises(postgres.MigrationError, match="0001"):
        await database.migrate(migrations)


async def test_a_gap_in_the_numbers_is_refused(database, migrations):
    (migrations / "0003_third.sql").write_text("SELECT 1")
    with pytest.raises(postgres.MigrationError, match="gaps"):
        await database.migrate(migrations)


async def test_two_schemas_in_one_database_do_not_meet(database, database_url, migrations):
    async with postgres.connect(database_url, schema="other") as other:
        await other.migrate(migrations)
        await other.execute("INSERT INTO thing VALUES (1, '{}')")
    assert await database.fetch("SELECT * FROM thing") == []


async def test_a_schema_name_is_not_sql(database_url):
    with pytest.raises(ValueError, match="schema"):
        async with postgres.connect(database_url, schema='a"; DROP'):
            pass


async def test_no_server_is_unavailable(free_port):
    with pytest.raises(errors.Unavailable):
        async with postgres.connect(f"postgresql://a:b@127.0.0.1:{free_port}/c", schema="room"):
            pass


async def test_a_lock_not_to_be_had_is_aborted(database):
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE thing")
        with pytest.raises(errors.Aborted):
            await database.execute("LOCK TABLE thing NOWAIT; SELECT 1")


async def test_a_cancelled_task_ends_cancelled_though_its_connection_is_lost(database):
    held, lost = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def hold():
        async with database.transaction() as connection:
            connection.add_termination_listener(lambda _: lost.set())
            held.set_result(connection.get_server_pid())
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await database.execute("SELECT pg_terminate_backend($1, 10000)", await held)
    await lost.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_restart_breaks_only_what_was_under_way(tmp_path):
    server = embedded_postgres.EmbeddedPostgres(tmp_path / "own", durable=False)
    await asyncio.to_thread(server.start)
    try:
        async with postgres.connect(server.url(), schema="public") as database:
            await database.execute("CREATE TABLE thing (id int)")

            async def interrupted():
                async with database.transaction() as connection:
                    await connection.execute("INSERT INTO thing VALUES (1)")
                    await asyncio.to_thread(server.restart, immediate=True)
                    await connection.execute("INSERT INTO thing VALUES (2)")

            with pytest.raises(errors.Unavailable):
                await interrupted()
            assert await database.fetchval("SELECT count(*) FROM thing") == 0
            await asyncio.to_thread(server.stop)
            with pytest.raises(errors.Unavailable):
                await database.fetchval("SELECT 1")
    finally:
        await asyncio.to_thread(server.stop)
