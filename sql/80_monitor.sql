-- What etcd_fdw tells about itself.

CREATE FUNCTION @extschema@.etcd_fdw_library_version() RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'etcd_fdw_library_version';
COMMENT ON FUNCTION @extschema@.etcd_fdw_library_version() IS 'The version of the C library that this server has loaded.';

CREATE FUNCTION @extschema@.etcd_fdw_core_version() RETURNS text
  LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_core_version() IS 'The version of the program that the JavaScript engine runs.';

CREATE FUNCTION @extschema@.etcd_fdw_stat_rows() RETURNS TABLE(
    database text, server text, role text, calls bigint, rows bigint, bytes_sent bigint, bytes_received bigint, errors bigint,
    latency_sum double precision, latency_max double precision, coalesced bigint, grouped bigint, retries bigint, failovers bigint,
    transactions bigint, cache_hits bigint, cache_misses bigint, cache_bytes bigint)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_stat_rows() IS 'What view etcd_fdw_stat shows, of all databases; internal to etcd_fdw.';
REVOKE ALL ON FUNCTION @extschema@.etcd_fdw_stat_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.etcd_fdw_stat_rows() TO pg_monitor;

CREATE VIEW @extschema@.etcd_fdw_stat AS
  SELECT s.server, s.role, s.calls, s.rows, s.bytes_sent, s.bytes_received, s.errors, s.latency_sum,
    CASE WHEN s.calls OPERATOR(pg_catalog.>) 0::pg_catalog.int8
      THEN s.latency_sum OPERATOR(pg_catalog./) s.calls::pg_catalog.float8 END AS latency_mean, s.latency_max, s.coalesced, s.grouped, s.retries, s.failovers, s.transactions,
    s.cache_hits, s.cache_misses, s.cache_bytes
  FROM @extschema@.etcd_fdw_stat_rows() s
  WHERE s.database OPERATOR(pg_catalog.=) pg_catalog.current_database()::pg_catalog.text;
COMMENT ON VIEW @extschema@.etcd_fdw_stat IS
  'What the proxy has done for each server and role of this database (''public'' where tables are used without a user mapping of the role''s own) since it started or etcd_fdw_stat_reset(): calls of etcd, rows that came with them, bytes, errors, latencies in milliseconds, reads that shared a request, writes that shared one, calls that were repeated, changes of the endpoint, transactions that were committed; reads of cached tables that the proxy has answered and those that it could not, and the bytes of its answers.';
GRANT SELECT ON @extschema@.etcd_fdw_stat TO PUBLIC;

CREATE FUNCTION @extschema@.etcd_fdw_stat_reset() RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_stat_reset() IS 'Sets the figures of view etcd_fdw_stat to 0, in all databases.';
REVOKE ALL ON FUNCTION @extschema@.etcd_fdw_stat_reset() FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_fdw_cache_rows() RETURNS TABLE(
    database text, server text, role text, key text, range_end text, state text, revision bigint, keys bigint, bytes bigint,
    hits bigint, misses bigint, verifications bigint, repairs bigint)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_cache_rows() IS 'What view etcd_fdw_cache shows, of all databases; internal to etcd_fdw.';
REVOKE ALL ON FUNCTION @extschema@.etcd_fdw_cache_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.etcd_fdw_cache_rows() TO pg_monitor;

CREATE VIEW @extschema@.etcd_fdw_cache AS
  SELECT c.server, c.role, c.key, c.range_end, c.state, c.revision, c.keys, c.bytes, c.hits, c.misses, c.verifications, c.repairs
  FROM @extschema@.etcd_fdw_cache_rows() c
  WHERE c.database OPERATOR(pg_catalog.=) pg_catalog.current_database()::pg_catalog.text;
COMMENT ON VIEW @extschema@.etcd_fdw_cache IS
  'The ranges of keys that the proxy caches, once for each server and role of this database that has read them: the state (LIVE answers; while it is LOADING, LOST or WAITING, etcd does), the revision, keys and bytes that are held, reads that were answered and those that were not, comparisons with etcd and times that a cache was found to be wrong and loaded anew.';
GRANT SELECT ON @extschema@.etcd_fdw_cache TO PUBLIC;

CREATE FUNCTION @extschema@.etcd_fdw_proxy_row() RETURNS TABLE(
    pid integer, version text, deno text, started_at timestamptz, memory_resident bigint, memory_heap bigint, sessions integer,
    clusters integer, connections integer)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_proxy_row() IS 'What view etcd_fdw_proxy shows; internal to etcd_fdw.';

CREATE VIEW @extschema@.etcd_fdw_proxy AS
  SELECT p.pid, p.version, p.deno, p.started_at, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.started_at AS uptime, p.memory_resident,
    p.memory_heap, p.sessions, p.clusters, p.connections
  FROM @extschema@.etcd_fdw_proxy_row() p;
COMMENT ON VIEW @extschema@.etcd_fdw_proxy IS
  'The proxy of this PostgreSQL: its process, memory in bytes, the backends that are connected to it, the clusters that it knows and its connections to these. Starts it when it is not running.';
GRANT SELECT ON @extschema@.etcd_fdw_proxy TO PUBLIC;

CREATE FUNCTION @extschema@.etcd_fdw_version() RETURNS TABLE(component text, version text)
  LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one text;
  own text;
BEGIN
  -- The schema's present name: in a text that named it, another schema could take the place of one that was renamed.
  SELECT n.nspname INTO own FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'etcd_fdw';
  RETURN QUERY SELECT 'extension'::text, e.extversion::text FROM pg_extension e WHERE e.extname = 'etcd_fdw';
  RETURN QUERY EXECUTE format($q$
    SELECT 'library', %1$I.etcd_fdw_library_version()
    UNION ALL SELECT 'core', %1$I.etcd_fdw_core_version()
    UNION ALL SELECT 'engine', %1$I.etcd_fdw_engine()
    UNION ALL SELECT 'proxy', p.version FROM %1$I.etcd_fdw_proxy_row() p $q$, own);
  FOR one IN
    SELECT s.srvname FROM pg_foreign_server s
      JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'etcd_fdw'
    WHERE has_server_privilege(s.oid, 'USAGE') ORDER BY 1
  LOOP
    BEGIN
      RETURN QUERY EXECUTE format(
        'SELECT format(''etcd %%s at %%s'', $1, e.endpoint), coalesce(e.version, e.error) FROM %I.etcd_status($1) e', own)
        USING one;
    EXCEPTION WHEN OTHERS THEN  -- a server that is set up wrongly must not hide the others
      RETURN QUERY SELECT format('etcd %s', one), SQLERRM;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.etcd_fdw_version() IS
  'The versions of all parts: the extension''s SQL objects, the C library, the program in the engine, the engine, the proxy, and etcd at each endpoint of each server that the user may use.';

CREATE FUNCTION @extschema@.etcd_fdw_disconnect() RETURNS integer
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_disconnect';
COMMENT ON FUNCTION @extschema@.etcd_fdw_disconnect() IS
  'Closes this session''s connection to the proxy and with it what it holds there: locks, leaderships, leases that are kept alive. How many servers it used. The next statement connects again, reads certificates again and logs in again. An error when the transaction has written rows that are not committed.';

CREATE FUNCTION @extschema@.etcd_fdw_certificate_rows(server text) RETURNS TABLE(
    source text, subject text, issuer text, not_before timestamptz, not_after timestamptz, endpoint text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 4 AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_fdw_certificate_rows(text) IS
  'What etcd_fdw_certificates() shows; internal to etcd_fdw.';

CREATE FUNCTION @extschema@.etcd_fdw_certificates(server text) RETURNS TABLE(
    source text, subject text, issuer text, not_before timestamptz, not_after timestamptz, expires_in interval, endpoint text)
  LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 4
BEGIN ATOMIC
  SELECT c.source, c.subject, c.issuer, c.not_before, c.not_after,
    c.not_after OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp(), c.endpoint
  FROM @extschema@.etcd_fdw_certificate_rows($1) c;
END;
COMMENT ON FUNCTION @extschema@.etcd_fdw_certificates(text) IS
  'The certificates of a server: what each endpoint shows (source peer, and peer-chain for those behind it) and what the options cafile and certfile hold, even if they have expired. No row without TLS. For members of pg_monitor too.';

CREATE FUNCTION @extschema@.etcd_fdw_server_cert_expiry(server text) RETURNS timestamptz
  LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
  SELECT pg_catalog.min(c.not_after) FROM @extschema@.etcd_fdw_certificate_rows($1) c
  WHERE c.source OPERATOR(pg_catalog.=) 'peer'::pg_catalog.text;
END;
COMMENT ON FUNCTION @extschema@.etcd_fdw_server_cert_expiry(text) IS
  'When the first certificate of the server''s endpoints expires; NULL without TLS, or when none can be reached.';

CREATE FUNCTION @extschema@.etcd_fdw_cert_expiry_rows() RETURNS TABLE(
    server text, source text, subject text, issuer text, not_before timestamptz, not_after timestamptz, expires_in interval,
    endpoint text, error text)
  LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one text;
  own text;
BEGIN
  SELECT n.nspname INTO own FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'etcd_fdw';
  FOR one IN
    SELECT s.srvname FROM pg_foreign_server s
      JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'etcd_fdw'
    WHERE has_server_privilege(s.oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE') ORDER BY 1
  LOOP
    BEGIN
      RETURN QUERY EXECUTE format('SELECT $1, c.*, NULL::text FROM %I.etcd_fdw_certificates($1) c', own) USING one;
    EXCEPTION WHEN OTHERS THEN  -- a file that is missing must not hide the other servers
      RETURN QUERY SELECT one, NULL, NULL, NULL, NULL::timestamptz, NULL::timestamptz, NULL::interval, NULL, SQLERRM;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.etcd_fdw_cert_expiry_rows() IS
  'What view etcd_fdw_cert_expiry shows; internal to etcd_fdw.';

CREATE VIEW @extschema@.etcd_fdw_cert_expiry AS
  SELECT c.server, c.source, c.subject, c.issuer, c.not_before, c.not_after, c.expires_in, c.endpoint, c.error
  FROM @extschema@.etcd_fdw_cert_expiry_rows() c;
COMMENT ON VIEW @extschema@.etcd_fdw_cert_expiry IS
  'etcd_fdw_certificates() of each server that the user may use, or of all for members of pg_monitor; a server whose certificates cannot be looked at has a row that says why in error.';
GRANT SELECT ON @extschema@.etcd_fdw_cert_expiry TO PUBLIC;
