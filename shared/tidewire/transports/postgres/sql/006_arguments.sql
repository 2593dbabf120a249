-- realtime_publish takes json and jsonb, user ids of any type (text[], integer[], bigint[], uuid[], ...), and one user id.
--
-- Postgres chooses a function by the types of the arguments, and a literal or an untyped parameter has none. Three
-- functions stay unambiguous because of two rules of its choice (manual, section 10.3):
-- - anycompatiblearray takes an argument without a type as text[]: null, '{u1,u2}', and a list of a driver.
-- - Among functions that differ in `type` alone, one with text, the preferred type, wins: data without a type is json, as
--   it always was, so that drivers that ask for the parameter's type still encode objects as JSON. bpchar has no limit.
-- Each runs as its caller, with the schema's own search_path; only publish_as_owner runs as its owner.

alter function realtime_publish(text, json, text[], text) rename to publish_as_owner;

create function realtime_publish(
  type text, data json, user_ids anycompatiblearray default null::text[], id text default null
) returns setof receipt language sql set search_path from current as $$
  select * from publish_as_owner($1, $2, $3::text[], $4)
$$;

create function realtime_publish(
  type bpchar, data jsonb, user_ids anycompatiblearray default null::text[], id text default null
) returns setof receipt language sql set search_path from current as $$
  select * from publish_as_owner($1::text, $2::json, $3::text[], $4)
$$;

-- A NULL is refused: in a trigger it is a column without a value, and the event must not reach everyone.
create function realtime_publish(
  type bpchar, data json, user_id anycompatiblenonarray, id text default null
) returns setof receipt language sql set search_path from current as $$
  select * from publish_as_owner($1::text, $2, array[$3::text], $4)
$$;

-- The same without the schema's name for the default prefix, as in 003_short_name.sql. The functions run as their caller,
-- who needs usage of the schema.
do $$
begin
  if current_schema() <> 'rt' then
    return;
  end if;
  if to_regprocedure('public.realtime_publish(text, json, text[], text)') is not null then
    begin
      drop function public.realtime_publish(text, json, text[], text);
    exception when dependent_objects_still_exist then  -- a view or a function of the application calls it
      alter function public.realtime_publish(text, json, text[], text) rename to realtime_publish_json;
    end;
  end if;
  create or replace function public.realtime_publish(
    type text, data json, user_ids anycompatiblearray default null::text[], id text default null
  ) returns setof rt.receipt language sql as 'select * from rt.realtime_publish($1, $2, $3, $4)';
  create or replace function public.realtime_publish(
    type bpchar, data jsonb, user_ids anycompatiblearray default null::text[], id text default null
  ) returns setof rt.receipt language sql as 'select * from rt.realtime_publish($1, $2, $3, $4)';
  create or replace function public.realtime_publish(
    type bpchar, data json, user_id anycompatiblenonarray, id text default null
  ) returns setof rt.receipt language sql as 'select * from rt.realtime_publish($1, $2, $3, $4)';
exception when insufficient_privilege or invalid_schema_name then
  raise notice 'nothing can be created in the schema public: call rt.realtime_publish(...) by its full name';
end $$;
