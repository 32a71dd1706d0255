-- 0.1.0 had foreign tables only.

-- include 30_kv.sql
-- include 40_txn.sql
-- include 50_lease.sql
-- include 60_cluster.sql
-- include 70_auth.sql
-- include 80_monitor.sql
-- include 90_follow.sql
-- include forms

-- With plv8, the program is part of the function that runs it.
SELECT @extschema@.etcd_fdw_use_engine(@extschema@.etcd_fdw_engine());
COMMENT ON FUNCTION @extschema@.etcd_fdw_dispatch(text, text, bytea) IS 'entry into core; internal to etcd_fdw';
