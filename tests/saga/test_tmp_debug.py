from workflows.messages import Status
import asyncio
import asyncpg
from tests.saga.test_merge_run import *
async def test_debug(shop: Scene, second_cluster: Cluster) -> None:
    canary = {"shop.customer": "c.c_id % 10 = 0"}
    plan = KEPT | {"rollout": [{"phase": "canary", "where": canary}, {"phase": "everyone"}]}
    async with shop.worker():
        handle = await shop.start(plan)
        await shop.until(handle, "kept open")
        await handle.execute_update("rollback", {"actor": "tester", "reason": "once more", "to": "canary"})
        con = await asyncpg.connect(shop.target_dsn)
        for _ in range(40):
            await asyncio.sleep(1)
            s = await handle.query("status", result_type=Status)
            print(s.state, s.step if hasattr(s,'step') else '', s.message)
            for r in await con.fetch("select application_name, state, wait_event_type, wait_event, now()-query_start as age, left(regexp_replace(query,'\\s+',' ','g'),300) q from pg_stat_activity where datname=current_database() and pid<>pg_backend_pid() and state<>'idle'"):
                print('   ', dict(r))
            if s.state == 'at checkpoint': break
        await con.close()
        await handle.terminate()
    assert 0
