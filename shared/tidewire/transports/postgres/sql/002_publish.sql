-- realtime_publish: an application publishes inside its own transaction, and a rollback undoes it.
--
--   select realtime_publish('task-updated', json_build_object('id', 7), array['u1']);
--
-- From the call until its end the transaction blocks every other publisher of this log: publish last, then commit.

create type receipt as (
  id text, partition text, epoch bigint, "offset" bigint, "check" text, time bigint, duplicate boolean
);

-- CRC-32 of the user id, modulo the number of shards: the same as shared/tidewire/model/partitions.py.
create function shard_of(user_id text, shards integer) returns integer language plpgsql immutable as $$
declare
  half constant bigint[] := array[0, 498536548, 997073096, 651767980, 1994146192, 1802195444, 1303535960, 1342533948,
    3988292384, 4027552580, 3604390888, 3412177804, 2607071920, 2262029012, 2685067896, 3183342108];
  bytes bytea := convert_to(user_id, 'UTF8');
  crc bigint := 4294967295;
begin
  for i in 0 .. length(bytes) - 1 loop
    crc := crc # get_byte(bytes, i);
    crc := (crc >> 4) # half[(crc & 15) + 1];
    crc := (crc >> 4) # half[(crc & 15) + 1];
  end loop;
  return (crc # 4294967295) % shards;
end $$;

-- A UUIDv7: a random UUIDv4 with the time in its first 48 bits and the version's two bits set.
create function new_id() returns text language sql volatile set search_path from current as $$
  select encode(set_bit(set_bit(
    overlay(uuid_send(gen_random_uuid()) placing substr(int8send(now_ms()), 3) from 1 for 6), 52, 1), 53, 1),
    'hex')::uuid::text
$$;

-- The problem of a JSON text that Postgres accepts and readers may not; null if there is none.
create function data_problem(data text) returns text language plpgsql immutable as $$
declare
  pair constant text := '\\u[dD][89abAB]..\\u[dD][c-fC-F]..';
  rest text;
begin
  if data ~* '\\ud[89a-f]' then
    rest := regexp_replace(regexp_replace(data, '\\\\', '', 'g'), pair, '', 'g');  -- without \\ and whole pairs
    if rest ~* '\\ud[89a-f]' then return 'data holds half of a surrogate pair, which names no character'; end if;
  end if;
  if length(data) - length(translate(data, '[{', '')) > 100 then
    rest := regexp_replace(regexp_replace(data, '"([^"\\]|\\.)*"', '', 'g'), '[^][{}]', '', 'g');  -- brackets alone
    for level in 1 .. 100 loop
      rest := replace(replace(rest, '[]', ''), '{}', '');
    end loop;
    if rest <> '' then return 'data is nested more than 100 levels deep'; end if;
  end if;
  return null;
end $$;

-- The problem of these fields; null if there is none. The rules of docs/protocol.md, as in shared/tidewire/model/event.py.
create function problem(type text, data json, user_ids text[], id text) returns text language sql immutable
set search_path from current as $$
  select case
    when type is null or type !~ '^[A-Za-z0-9._-]{1,128}$' then 'type must be 1 to 128 characters of A-Z a-z 0-9 . _ -'
    when starts_with(type, 'realtime.') then 'type must not start with "realtime.": these names are reserved'
    when data is null then 'data must be JSON, not NULL: write ''null''::json'
    when data_problem(data::text) is not null then data_problem(data::text)
    when id !~ '^[!-~]+$' or length(id) > 256 then 'id must be 1 to 256 visible ASCII characters (no spaces)'
    when cardinality(user_ids) = 0 then 'user_ids must not be empty: leave it out, or NULL, to reach everyone'
    when cardinality(user_ids) > 1000 then 'user_ids must name at most 1,000 users'
    when exists (
      select from unnest(user_ids) as u
      where u is null or length(u) not between 1 and 256 or u ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]'
    ) then 'each of user_ids must be 1 to 256 characters without control characters'
  end
$$;

-- Runs as its owner: `grant usage on schema <prefix> to <role>` lets a role publish, and nothing else.
create function realtime_publish(type text, data json, user_ids text[] default null, id text default null)
returns setof receipt language plpgsql security definer set search_path from current as $$
declare
  s settings;
  wrong text := problem(type, data, user_ids, id);
  event_id text := coalesce(id, new_id());
  base text := 'all';
  target record;
  event text;
begin
  if wrong is not null then
    raise exception using errcode = 'invalid_parameter_value', message = 'realtime_publish: ' || wrong;
  end if;
  select * into strict s from settings;
  if type = any (s.types) then base := type; end if;
  for target in
    select case when s.user_shards > 0 and u is not null then base || ':u' || shard_of(u, s.user_shards) else base end
      as partition, json_agg(u order by n) filter (where u is not null) as users
    from (
      select u, min(n) as n from unnest(coalesce(user_ids, array[null::text])) with ordinality as named(u, n) group by u
    ) as audience
    group by 1 order by min(n)
  loop
    event := concat('{"id":', to_json(event_id), ',"type":', to_json(type), ',"data":', data,
      ',"userIds":' || target.users, '}');
    if octet_length(event) > 262144 then
      raise exception using errcode = 'invalid_parameter_value',
        message = 'realtime_publish: an event may have at most 256 KiB';
    end if;
    return query select event_id, a.* from append_to(
      target.partition, array[event_id], array[event], s.age, s.most, s.idempotency
    ) as a;
  end loop;
end $$;
