-- Users, roles and permissions of etcd, for superusers until they are granted. Passwords stand in the statement: keep it out
-- of the log.

CREATE FUNCTION @extschema@.etcd_auth_status(server text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_auth_status(text) IS
  'Whether etcd demands authentication (etcd 3.5 and later).';

CREATE FUNCTION @extschema@.etcd_auth_enable(server text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_auth_enable(text) IS
  'Switches authentication on; there must be a user root with role root.';
REVOKE ALL ON FUNCTION @extschema@.etcd_auth_enable(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_auth_disable(server text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_auth_disable(text) IS
  'Switches authentication off.';
REVOKE ALL ON FUNCTION @extschema@.etcd_auth_disable(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_users(server text)
  RETURNS TABLE(username text, roles text[])
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_users(text) IS
  'The users and their roles.';
REVOKE ALL ON FUNCTION @extschema@.etcd_users(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_user_add(server text, username text, password text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_user_add(text, text, text) IS
  'Makes a user; NULL as password makes one that can log in by certificate alone.';
REVOKE ALL ON FUNCTION @extschema@.etcd_user_add(text, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_user_delete(server text, username text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_user_delete(text, text) IS
  'Deletes a user.';
REVOKE ALL ON FUNCTION @extschema@.etcd_user_delete(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_user_password(server text, username text, password text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_user_password(text, text, text) IS
  'Changes a user''s password.';
REVOKE ALL ON FUNCTION @extschema@.etcd_user_password(text, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_user_grant_role(server text, username text, role text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_user_grant_role(text, text, text) IS
  'Gives a user a role.';
REVOKE ALL ON FUNCTION @extschema@.etcd_user_grant_role(text, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_user_revoke_role(server text, username text, role text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_user_revoke_role(text, text, text) IS
  'Takes a role from a user.';
REVOKE ALL ON FUNCTION @extschema@.etcd_user_revoke_role(text, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_roles(server text)
  RETURNS TABLE(role text, permission text, key text, range_end text)
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_roles(text) IS
  'The roles and what they permit, a row for each range; role root permits everything and shows nothing.';
REVOKE ALL ON FUNCTION @extschema@.etcd_roles(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_role_add(server text, role text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_role_add(text, text) IS
  'Makes a role.';
REVOKE ALL ON FUNCTION @extschema@.etcd_role_add(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_role_delete(server text, role text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_role_delete(text, text) IS
  'Deletes a role.';
REVOKE ALL ON FUNCTION @extschema@.etcd_role_delete(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_role_grant(
    server text, role text, permission text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_role_grant(text, text, text, text, boolean, text) IS
  'Lets a role read, write or readwrite a key, or with prefix or range_end a range as in etcd_range().';
REVOKE ALL ON FUNCTION @extschema@.etcd_role_grant(text, text, text, text, boolean, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.etcd_role_revoke(
    server text, role text, key text, prefix boolean DEFAULT false, range_end text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_role_revoke(text, text, text, boolean, text) IS
  'Takes the permission for a key or range from a role; the range must be named as it was granted.';
REVOKE ALL ON FUNCTION @extschema@.etcd_role_revoke(text, text, text, boolean, text) FROM PUBLIC;

