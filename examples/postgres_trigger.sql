-- Publishes each change of a table in the transaction that makes it, whichever program writes: a rollback publishes
-- nothing. Run it once, after `python -m tidewire migrate`. The table is an example: id, owner_id and done are its columns.
--
-- From the first change until its commit the transaction blocks all other publishers of the log, so keep it short. Many
-- rows in one statement are many events: publish such changes once, from the application.

create table if not exists tasks (id bigint primary key, owner_id bigint not null, title text not null, done boolean);

create or replace function publish_task() returns trigger language plpgsql as $$
begin
  perform realtime_publish(
    case tg_op when 'INSERT' then 'task-created' else 'task-updated' end,
    to_jsonb(new) - 'owner_id',  -- what subscribers may see
    array[new.owner_id]          -- who receives it: the user ids of the subscribers' tokens
  );
  return null;
end $$;

drop trigger if exists publish_task on tasks;
create trigger publish_task after insert or update on tasks for each row execute function publish_task();
