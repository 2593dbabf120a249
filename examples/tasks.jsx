// A live list of tasks in React. Its state is one user's, so render <Tasks key={user} …/>. `tidewire/react` is site/react.js:
// define an alias in your bundler, or import your copy by its path.
import { useEffect, useState } from "react";
import { useRealtime } from "tidewire/react";

export function Tasks({ user, fetchToken, fetchTasks }) {
  const [tasks, setTasks] = useState({});
  const { state, gaps } = useRealtime({
    user, // the stream closes at once when this changes
    token: fetchToken,
    types: ["task-updated"],
    onEvent: ({ data }) => setTasks((known) => ({ ...known, [data.id]: data })),
  });
  useEffect(() => {
    let isCurrent = true;
    fetchTasks(user).then((list) => isCurrent && setTasks(Object.fromEntries(list.map((task) => [task.id, task]))));
    return () => { isCurrent = false; };
  }, [fetchTasks, user, gaps]); // when mounted, and after a gap

  return (
    <>
      <ul>{Object.values(tasks).map(({ id, title }) => <li key={id}>{title}</li>)}</ul>
      <p role="status">{state}</p>
    </>
  );
}
