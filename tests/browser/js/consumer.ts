// An application in strict TypeScript. It compiles, and each @ts-expect-error line has an error.
import { connect, type ConnectOptions, type Failure, type RealtimeEvent, type Subscription } from "./site/realtime.js";

interface Task { id: number; status: "open" | "done" }
type Events = { "task-updated": Task; "task-removed": { id: number } };

const text = (value: string): string => value;
const done = (task: Task): number => task.id;

const subscription: Subscription = connect<Events>({
  types: ["task-updated", "task-removed"],
  token: async () => "a.b.c",
  mode: "poll",
  every: 30_000,
  onEvent(event) {
    if (event.type === "task-updated") done(event.data);
    else text(String(event.data.id));
    // @ts-expect-error the data of this type has no status
    if (event.type === "task-removed") text(event.data.status);
    // @ts-expect-error Events has no such type
    if (event.type === "task-added") text(event.raw);
  },
  onError: ({ message, status, final }: Failure) => text(`${message} ${status ?? 0} ${final}`),
});
text(subscription.cursor);

// Options may be undefined, also under exactOptionalPropertyTypes.
function follow(options: { url?: string | undefined; token: string | null; signal?: ConnectOptions["signal"] }): Subscription {
  return connect({ url: options.url, token: options.token, signal: options.signal, storage: undefined });
}
follow({ token: null }).close();

// Without the Events parameter, data is unknown.
connect({ onEvent: (event: RealtimeEvent) => text(event.type) });
connect({
  onEvent(event) {
    // @ts-expect-error unknown is not a string
    text(event.data);
  },
});

// @ts-expect-error there is no such mode
connect({ mode: "push" });
// @ts-expect-error there is no such state
if (subscription.state === "open") subscription.close();

interface Named { "a": 1 }
connect<Named>({ onEvent: (event) => done({ id: event.data, status: "open" }) }); // an interface works too
