// Written by `make docs` from the table of routes: change that, not this.

/** Credits of a key or a user, in millionths of a dollar. */
export interface AccountView {
  key_id: string;
  user: string | null;
  granted_micros: number;
  spent_micros: number;
  /** for tasks that have not ended */
  held_micros: number;
  /** below 0 where tasks have cost more than was held for them */
  left_micros: number;
}

/** How the versions of a model are adopted. */
export interface AdoptionView {
  model: string;
  /** if not, the version registered last gets what names none */
  is_staged: boolean;
  /** of the stages: another one after each change, for those who change */
  edition: string;
  live: string;
  canary: CanaryView | null;
  /** versions that were live, the last one first */
  former: (string)[];
  /** newest first */
  versions: (VersionStageView)[];
  /** newest first */
  history: (LifeChangeView)[];
  /** what is to be done; empty for nothing */
  notice: string;
}

/** What is left for whoever asks; empty where nothing is limited. */
export interface AllowanceView {
  limits: (StandingView)[];
}

/** An output file; the URL is signed and expires. */
export interface ArtifactView {
  url: string;
  content_type: string;
  bytes: number;
  width: number | null;
  height: number | null;
  /** a picture in WebP, at most 256 px wide; `w` may also be 128, 512 or 2048 */
  thumbnail_url: string | null;
}

/** What operators did, newest first; `cursor` asks for the next page, null at the end. */
export interface AuditList {
  entries: (AuditView)[];
  cursor: string | null;
}

/** One thing that an operator did, or tried to do. */
export interface AuditView {
  id: string;
  at: string;
  key_id: string;
  key_name: string;
  /** where it came from, or the proxy before us */
  address: string;
  /** such as `keys.create` */
  action: string;
  /** id of what it was done to; empty for none */
  target: string;
  /** HTTP status of the answer */
  status: number;
  detail: string;
  request_id: string;
}

/** The same from a sheet, which has a permit instead of a key. */
export interface BallotRequest {
  /** of the comparison */
  permit: string;
  /** from 0 on */
  row: number;
  voter: string;
  voter_id?: string | null;
  winner?: number | null;
  /** all in the row are as good; then there is no `winner` */
  tie?: boolean;
}

/** Many tasks; all are accepted or none. */
export interface BatchRequest {
  /** each as in `POST /v1/tasks` */
  tasks: (TaskRequest)[];
}

/** The tasks of a batch, in the order of the request. */
export interface BatchView {
  tasks: (TaskView)[];
}

/** Which version gets a part of the traffic, and how much. */
export interface CanaryRequest {
  version: string;
  /** of the tasks that name no version */
  share: number;
  /** whose tasks all get the same version: those of a `user` of a key, where what names none is drawn by itself, or all of a `key` */
  sticky?: "key" | "user";
  rollback?: RollbackRules;
  /** of the stages, as the caller has seen them (`edition` of GET …/adoption): 409 where they have changed since; null does not ask */
  edition?: string | null;
}

/** A version that gets a part of the traffic. */
export interface CanaryView {
  version: string;
  share: number;
  since: string;
  sticky: string;
  rollback: RollbackRules;
  /** whether a live worker has it; else the live version gets its part */
  is_served: boolean;
  evidence: VerdictView;
}

/** What one model made of a row; which one, is told once the voting has ended. */
export interface CellView {
  /** what a vote names, from 1 on */
  number: number;
  picture: PictureView | null;
  text: string | null;
  /** `owner/name:version`; null before */
  model: string | null;
  /** null before */
  task_id: string | null;
  /** null before */
  queue_s: number | null;
  /** null before */
  run_s: number | null;
  /** in millionths of a dollar; null before, or without a price */
  cost_micros: number | null;
}

/** A field of a request that was changed so that the task could be accepted. */
export interface ChangeView {
  /** JSON pointer into the request */
  field: string;
  /** what was asked for */
  from: unknown;
  /** what is done instead */
  to: unknown;
}

/** What waits of a model in one class. */
export interface ClassView {
  name: string;
  priority: number;
  ready: number;
  ready_samples: number;
}

/** A model that was compared: votes, time, memory and cost, as of `created_at`. */
export interface ComparedView {
  /** `owner/name:version` */
  model: string;
  wins: number;
  ties: number;
  losses: number;
  /** rows in which there is something of it */
  rows: number;
  /** rows in which there is not */
  failures: number;
  /** median of what its tasks waited */
  queue_s: number | null;
  /** for how long it was loaded meanwhile, in all */
  load_s: number;
  /** median of how long its tasks ran */
  run_s: number | null;
  /** what it takes of its device; null if that is not known */
  memory_bytes: number | null;
  images: number;
  /** of all its tasks, in millionths of a dollar; null if unknown */
  cost_micros: number | null;
  /** of one picture, in millionths of a dollar */
  image_micros: number | null;
}

/** Comparisons, newest first; `cursor` asks for the next page and is null at the end. */
export interface ComparisonList {
  comparisons: (ComparisonSummary)[];
  cursor: string | null;
}

/** What is to be compared. */
export interface ComparisonRequest {
  rows: (ComparisonRow)[];
  /** for people; voters see it */
  name?: string;
  /** whether other keys may look and vote */
  is_shared?: boolean;
}

/** One input to all models. */
export interface ComparisonRow {
  /** ids of tasks that have ended, one for each model, in the same order in every row */
  tasks: (string)[];
  /** what was asked for, in words; of the input if empty */
  label: string;
}

/** A comparison in a list. */
export interface ComparisonSummary {
  id: string;
  name: string;
  created_at: string;
  closed_at: string | null;
  is_shared: boolean;
  is_own: boolean;
  columns: number;
  rows: number;
  votes: number;
}

/** A comparison of models, without their names until the voting has ended. */
export interface ComparisonView {
  id: string;
  name: string;
  created_at: string;
  /** when the voting ended; null before */
  closed_at: string | null;
  is_shared: boolean;
  /** whether the caller may end the voting */
  is_own: boolean;
  /** how many models are compared */
  columns: number;
  votes: number;
  rows: (RowView)[];
  /** null before the voting has ended */
  models: (ComparedView)[] | null;
}

/** What the seconds of workers went into. */
export interface CostKinds {
  /** attempts that gave something */
  attempts: number;
  /** attempts that came to nothing */
  failed: number;
  /** nothing to do */
  idle: number;
  /** cold starts */
  cold: number;
  /** restarts, switches of models, silence, minimum billing */
  wasted: number;
  total: number;
}

/** The same in millionths of a dollar, of workers whose pool has a price. */
export interface CostMicros {
  attempts: number;
  failed: number;
  idle: number;
  cold: number;
  wasted: number;
  total: number;
}

/** What something costs, with its share of what belongs to nobody. */
export interface CostView {
  /** model, user, id of the key, pool or day; null for what is nobody's */
  name: string | null;
  attempts: number;
  /** pictures, or other samples, that succeeded */
  images: number;
  seconds: CostKinds;
  /** null where no pool has a price */
  micros: CostMicros | null;
  /** what an image costs by the attempts that gave one alone */
  image_micros: number | null;
  /** the same with all else that was paid for */
  loaded_image_micros: number | null;
  /** what as many images cost at `costs.api_image_micros` */
  api_micros: number | null;
}

/** Costs of some days. */
export interface CostsList {
  from: string;
  to: string;
  by: string;
  /** what one image costs elsewhere, as the operator has set it */
  api_image_micros: number | null;
  costs: (CostView)[];
  /** those beyond `limit` together; null if there are none */
  others: CostView | null;
  total: CostView;
}

/** Something that was granted. */
export interface CreditEntryView {
  id: string;
  key_id: string;
  user: string | null;
  micros: number;
  at: string;
  note: string;
}

/** Money that was paid before. */
export interface CreditRequest {
  /** of the key */
  key_id: string;
  /** null for the key itself */
  user?: string | null;
  /** millionths of a dollar; less than 0 to take back */
  micros: number;
  id?: string | null;
  /** for people */
  note?: string;
}

/** Accounts by key and user, and what was granted, newest first. */
export interface CreditsList {
  accounts: (AccountView)[];
  entries: (CreditEntryView)[];
}

/** Which dead letters to replay: those named, or up to 1,000 of a model, or of all. */
export interface DeadReplayRequest {
  ids?: (string)[] | null;
  model?: string | null;
}

/** What became of the dead letters. */
export interface DeadReplayView {
  replayed: (Replayed)[];
}

/** What was decided, or befell a pool. */
export interface DecisionView {
  at: string;
  /** a pool, or a model where it is relief */
  about: string;
  /** launch, cancel (of boots), drain, end (of a machine), hurry (it is taken back at once), refused or failed (launches or boots), lost (it ended by itself) or relief (demand is not met in time) */
  what: string;
  /** of how many workers */
  n: number;
  /** one sentence each */
  why: (string)[];
}

/** What may be changed so that a task is in time, rather than refuse it. */
export interface DegradeRequest {
  steps?: number | null;
  size_px?: number | null;
  /** other models, the best first; the input must fit them */
  models?: (string)[];
}

/** Deliveries, newest first; `cursor` asks for the next page and is null at the end. */
export interface DeliveryList {
  deliveries: (DeliveryView)[];
  cursor: string | null;
}

/** One event for one receiver, and what became of it. */
export interface DeliveryView {
  /** the `webhook-id` */
  id: string;
  task: string;
  /** null for the URL that the task names */
  endpoint: string | null;
  event: string;
  /** when it happened */
  at: string;
  /** waiting, delivered, failed or skipped */
  state: string;
  reason: string;
  /** attempts since it was first due, or replayed */
  tries: number;
  /** when the next attempt is made */
  due_at: string | null;
  ended_at: string | null;
  attempts: (TryView)[];
}

/** Standing endpoints, oldest first. */
export interface EndpointList {
  webhooks: (EndpointView)[];
}

/** A standing endpoint to be. */
export interface EndpointRequest {
  /** http or https, on a public host, without a name or password */
  url: string;
  /** which events are told; the ends of tasks else */
  events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
  /** `owner/name` or `owner/*`; empty for all models */
  models?: (string)[];
  /** for people */
  description?: string;
  /** tell of the tasks of all keys; for an admin key only */
  all_keys?: boolean;
  /** how bodies are written: `native`, or a façade's name */
  format?: string;
}

/** A standing endpoint. */
export interface EndpointView {
  id: string;
  key_id: string;
  url: string;
  events: (string)[];
  models: (string)[];
  description: string;
  all_keys: boolean;
  format: string;
  /** active, paused or disabled */
  state: string;
  /** why it is not active */
  reason: string;
  changed_at: string;
  created_at: string;
  /** what signs; told when it is made, rotated, or asked for */
  secret?: string;
}

/** The same error, as OpenAI's clients read it. */
export interface ErrorEcho {
  message: string;
  type: string;
  code: string;
  param: string | null;
}

/** What would become of a task that was sent now. None is made. */
export interface EstimateView {
  /** whether it would be accepted */
  is_accepted: boolean;
  /** why not; null if it would be */
  refusal: RefusalView | null;
  /** which would run it, after `degrade` */
  model: string;
  version: string;
  /** as it would run */
  input: Record<string, unknown>;
  priority: number;
  /** what would be changed */
  degraded: (ChangeView)[];
  /** 1 is next */
  position: number;
  /** until it starts; null before any measurement */
  start_s: EtaSeconds | null;
  /** until it ends; null before any measurement */
  finish_s: EtaSeconds | null;
  /** most probably, in millionths of a dollar; null where that is not known */
  cost_micros: number | null;
  /** live ones that have the model */
  workers: number;
}

/** Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`. */
export interface EtaSeconds {
  low: number;
  median: number;
  high: number;
}

/** Which files of a task the viewer likes. */
export interface FavouritesView {
  task_id: string;
  /** their places among its artifacts */
  favourites: (number)[];
}

/** One broken value. */
export interface FieldProblem {
  pointer: string;
  detail: string;
  code: string;
}

/** What was granted, and what is there now. */
export interface GrantView {
  id: string;
  /** false where this id was granted before */
  is_new: boolean;
  account: AccountView;
}

/** Whether the service works. */
export interface HealthView {
  status: string;
  checks: Record<string, string>;
}

/** What to send again. */
export interface HookReplayRequest {
  /** of events that happened then or later */
  since: string;
}

/** How many are sent again. */
export interface HookReplayView {
  replayed: number;
}

/** How long the secret before signs too. */
export interface HookRotateRequest {
  /** for so long both sign, in seconds */
  overlap_s?: number;
}

/** What signs webhooks, for whoever checks their signatures. */
export interface HookSecretView {
  /** `whsec_` and base64 */
  key: string;
  created_at: string;
  /** until when the secret before this one signs too */
  old_until: string | null;
}

/** What a key may ask, as it was made: null stands for what the settings say. */
export interface KeyLimitsView {
  rate_per_s: number | null;
  burst: number | null;
  tasks_in_flight: number | null;
  tasks_per_day: number | null;
  streams: number | null;
}

/** Keys, revoked ones included. */
export interface KeyList {
  keys: (KeyView)[];
}

/** A key to make. Limits that are not given are those of the settings. */
export interface KeyRequest {
  /** for people */
  name: string;
  /** client, worker or admin */
  scopes?: (Scope)[];
  expires_in_s?: number | null;
  /** the only pools of workers with this key; empty for any */
  pools?: (string)[];
  /** `owner/name` or `owner/*`: all that its workers may have; empty for any */
  models?: (string)[];
  rate_per_s?: number | null;
  burst?: number | null;
  tasks_in_flight?: number | null;
  tasks_per_day?: number | null;
  streams?: number | null;
  /** all classes that it may use, the usual one first; empty for any */
  classes?: (string)[];
}

/** A key, without its secret. */
export interface KeyView {
  id: string;
  name: string;
  scopes: (Scope)[];
  created_at: string;
  revoked_at: string | null;
  expires_at: string | null;
  /** to the minute; null if never */
  used_at: string | null;
  /** until when the secret before its last rotation works */
  old_until: string | null;
  pools: (string)[];
  models: (string)[];
  limits: KeyLimitsView;
  /** all that it may use; empty for any */
  classes: (string)[];
}

/** What a worker's time went into. */
export interface LedgerEntryView {
  id: string;
  at: string;
  /** cold_start, attempt, failed, idle or wasted */
  kind: string;
  pool: string;
  models: (string)[];
  worker_id: string | null;
  /** the startup or attempt that it belongs to */
  ref: string;
  /** how that ended; `paid` of what an attempt has paid to others */
  outcome: string;
  seconds: number;
  /** millionths of a dollar; null where the pool has no price */
  cost_micros: number | null;
  /** whose attempts */
  key_id: string | null;
  user: string | null;
  attempts: number;
  images: number;
}

/** Entries of the ledger, those added last first. */
export interface LedgerList {
  entries: (LedgerEntryView)[];
  cursor: number | null;
}

/** One step of a model's life. */
export interface LifeChangeView {
  at: string;
  /** name of the key; empty where nobody asked for it */
  who: string;
  /** `canary`, `promote`, `rollback` or `retire` */
  action: string;
  version: string;
  share: number | null;
  reason: string;
}

/** What tasks of a model took lately on workers with one kind of device. */
export interface MeasuredView {
  /** as the workers call it, such as `cpu` or `cuda:0` */
  device: string;
  tasks: number;
  /** for each task, delivery included */
  median_s: number;
}

/** Models, by name. */
export interface ModelList {
  models: (ModelView)[];
}

/** What new tasks of a model can expect. */
export interface ModelScalingView {
  model: string;
  /** until a worker takes the first: 0 where one is there, null where none is launched */
  ready_in_s: number | null;
  /** share of new tasks that can start in time */
  admitted: number;
  /** how long a new one waits where not all can */
  wait_s: number;
  /** by how much each would have to become cheaper so that all can */
  speedup: number;
}

/** What the world may know of one version of a model. */
export interface ModelView {
  name: string;
  version: string;
  description: string;
  stage: string;
  input_schema: Record<string, unknown>;
  output_schema: Record<string, unknown>;
  examples: (Record<string, unknown>)[];
  registered_at: string | null;
  /** live workers that have it */
  workers: number;
  /** what its tasks took lately, in seconds */
  service_s: EtaSeconds | null;
  /** the same by the devices of the workers that ran them */
  measured: (MeasuredView)[];
  /** of code and weights, SPDX or words; empty if it was not said */
  licence: string;
  /** Markdown */
  credits: string;
  /** what it takes of its device; null if that is not known */
  memory_bytes: number | null;
  /** what a sample costs with somebody else, such as an API, in millionths of a dollar; null where it costs nothing there */
  price_micros: number | null;
  /** what it took its author, in seconds */
  speed: (Speed)[];
  samples: (SampleView)[];
  /** when a usual task sent now would end */
  eta_s: EtaSeconds | null;
  /** when a usual task sent now would start */
  start_s: EtaSeconds | null;
  /** its stages; null for what workers run themselves */
  pipeline: Pipeline | null;
  urls: Record<string, string>;
}

/** A comparison that was made. */
export interface NewComparisonView {
  comparison: ComparisonView;
  /** lets whoever has it vote without a key; shown only now */
  permit: string;
}

/** A new key, or one with a new secret, which is never shown again. */
export interface NewKeyView {
  id: string;
  name: string;
  scopes: (Scope)[];
  created_at: string;
  expires_at: string | null;
  /** until when the secret before the rotation works */
  old_until: string | null;
  key: string;
}

/** How long a phase takes: quantiles that count what is not over yet (Kaplan-Meier). */
export interface PhaseTimesView {
  /** cold, restart or switch */
  kind: string;
  model: string;
  /** boot, pull, import, fetch, load, warm, first_task; ready: from the beginning until tasks are taken; whole: that and the first task */
  phase: string;
  p50_s: number | null;
  p90_s: number | null;
  p99_s: number | null;
  /** which of these are only known to be at least so long */
  at_least: (string)[];
  /** how many have ended */
  observed: number;
  /** how many are under way, or died before this was over */
  not_over: number;
}

/** A copy of a picture, without anything that tells where it comes from. */
export interface PictureView {
  /** signed; it expires */
  url: string;
  content_type: string;
  width: number;
  height: number;
}

/** What is to be done, in order. */
export interface Pipeline {
  stages: (Stage)[];
  output: string | Record<string, string>;
  defaults: Record<string, unknown>;
}

/** Pools by name. */
export interface PoolList {
  pools: (PoolView)[];
}

/** How a pool stands whose workers are launched when they are needed. */
export interface PoolScalingView {
  provider: string;
  models: (string)[];
  /** workers that are wanted */
  desired: number;
  /** workers that take tasks */
  ready: number;
  /** of these, those that hold some */
  busy: number;
  /** asked for, and not ready yet */
  booting: number;
  /** they finish what they hold, and go */
  draining: number;
  least: number;
  most: number;
  /** an hour of one, in millionths of a dollar */
  hour_micros: number | null;
  /** who says so: a setting, its cloud, or a row of Swell's list of prices */
  price_source: string | null;
  /** the day on which that was read; null for a setting */
  price_read_on: string | null;
  /** when its cloud told it; null for any other price */
  price_told_at: string | null;
  /** why it is not what its cloud tells now, where it should be */
  price_note: string | null;
  /** whether the provider may take them back */
  spot: boolean;
  location: string | null;
  /** nothing is asked of the provider for so long */
  closed_s: number;
  why_closed: string | null;
  /** from asking for one until it takes tasks */
  start_p50_s: number;
  start_p95_s: number;
  /** what was done → of how many, as in decisions */
  counts: Record<string, number>;
  /** how machines have ended → how many */
  ends: Record<string, number>;
  /** why so many are wanted now */
  reasons: (string)[];
  /** the last about this pool */
  decision: DecisionView | null;
}

/** A pool of workers. */
export interface PoolView {
  pool: string;
  /** state → how many */
  workers: Record<string, number>;
  /** workers that are not ready yet */
  starting: number;
  /** tasks that its live workers may hold */
  slots: number;
  /** tasks that they hold, as this backend knows */
  held: number;
  /** of the last 200 startups of each kind and set of models */
  times: (PhaseTimesView)[];
  /** null where its workers come from elsewhere */
  scaling: PoolScalingView | null;
}

/** What went wrong and what to do about it (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  code: string;
  errors: (FieldProblem)[];
  request_id: string;
  error: ErrorEcho;
  error_type: string;
}

/** Which version is to be live: by its name, or the canary of an edition of the stages. */
export interface PromoteRequest {
  /** null for the canary; then `edition` is to be said. One that was rolled back by itself needs the edition too: else the answer is 409 */
  version?: string | null;
  /** of the stages, as the caller has seen them (`edition` of GET …/adoption): 409 where they have changed since; null does not ask */
  edition?: string | null;
}

/** Queues that are not empty, by name. */
export interface QueueList {
  queues: (QueueView)[];
}

/** What lies in one queue. */
export interface QueueView {
  queue: string;
  ready: number;
  delayed: number;
  running: number;
  ready_samples: number;
  oldest_ready_at: string | null;
  /** when a task sent now would end */
  eta_s: EtaSeconds | null;
  /** when a task sent now would start */
  start_s: EtaSeconds | null;
  /** what waits of the model in each class, all its queues */
  classes: (ClassView)[];
}

/** Quotas, by key and user. */
export interface QuotaList {
  quotas: (QuotaView)[];
}

/** How much a key, or a user of it, may use, in place of what was said before; null for any amount. Days and months are those of UTC. */
export interface QuotaRequest {
  /** of the key */
  key_id: string;
  /** null for the key itself; `*` for each user without a quota of his own */
  user?: string | null;
  tasks_per_day?: number | null;
  tasks_per_month?: number | null;
  /** pictures */
  samples_per_day?: number | null;
  /** pictures */
  samples_per_month?: number | null;
  /** cost, in millionths of a dollar */
  micros_per_day?: number | null;
  /** cost, in millionths of a dollar */
  micros_per_month?: number | null;
  /** nothing is accepted that its credits do not cover */
  is_prepaid?: boolean;
}

/** A quota, and what is left of it. */
export interface QuotaView {
  key_id: string;
  user: string | null;
  tasks_per_day: number | null;
  tasks_per_month: number | null;
  samples_per_day: number | null;
  samples_per_month: number | null;
  micros_per_day: number | null;
  micros_per_month: number | null;
  is_prepaid: boolean;
  /** empty where `user` is `*` */
  left: (StandingView)[];
}

/** Ratings, the strongest first, of all comparisons whose voting has ended. */
export interface RatingList {
  ratings: (RatingView)[];
  comparisons: number;
  votes: number;
}

/** What votes say of a model's strength, and how sure that is. */
export interface RatingView {
  /** `owner/name:version` */
  model: string;
  /** its strength, most probably */
  mu: number;
  /** standard deviation of that */
  sigma: number;
  /** mu less three sigma: by this they are ordered */
  ordinal: number;
  /** lower end of the interval that holds it with 95 % */
  low: number;
  /** its upper end */
  high: number;
  /** of rows in which it could be seen */
  votes: number;
  wins: number;
  ties: number;
  /** in words */
  summary: string;
}

/** Why a task would not be accepted. */
export interface RefusalView {
  code: string;
  status: number;
  title: string;
  detail: string;
  retry_after_s: number | null;
}

/** A dead letter and the task that repeats it; `error` says why there is none. */
export interface Replayed {
  id: string;
  new_id: string | null;
  error: string | null;
}

/** Which version gets nothing any more. */
export interface RetireRequest {
  version: string;
  /** of the stages, as the caller has seen them (`edition` of GET …/adoption): 409 where they have changed since; null does not ask */
  edition?: string | null;
}

/** Which version is to be left, and why. */
export interface RollbackRequest {
  /** the canary, or the live version where there is none: 409 where it is another one by now; null leaves whichever it is */
  version?: string | null;
  /** for whoever reads it later */
  reason?: string;
  /** of the stages, as the caller has seen them (`edition` of GET …/adoption): 409 where they have changed since; null does not ask */
  edition?: string | null;
}

/** When a canary is rolled back without being asked. */
export interface RollbackRules {
  automatic: boolean;
  /** how likely a canary that is no worse is ever rolled back, at most */
  false_alarm: number;
  /** by which part of all attempts it has to fail more often */
  failures_by: number;
  /** how many times the live version's its 95th percentile has to be */
  p95_by: number;
}

/** How to change a secret. */
export interface RotateRequest {
  /** the secret before works for so long */
  overlap_s?: number;
}

/** How to change the secret that signs URLs. */
export interface RotateSigningRequest {
  /** make all URLs void that were signed before */
  revoke?: boolean;
}

/** A row; the order of its cells is its own. */
export interface RowView {
  row: number;
  label: string;
  /** whether there is a choice */
  can_be_voted: boolean;
  /** the number of the cell for which `voter` voted; null for none, or a tie */
  voted: number | null;
  /** whether `voter` found all as good */
  is_tie: boolean;
  /** null before the voting has ended */
  seed: number | null;
  cells: (CellView)[];
}

/** A picture, sound or text on a model's card; its URL needs no key and never changes. */
export interface SampleView {
  url: string;
  caption: string;
  content_type: string;
  /** of a picture, in px; else 0 */
  width: number;
  /** of a picture, in px; else 0 */
  height: number;
  /** a text itself; else empty */
  text: string;
}

/** How the autoscaler stands, and what it has decided. */
export interface ScalingView {
  /** null where no autoscaler runs */
  at: string | null;
  /** the process that decides */
  leader: string | null;
  /** how old what it knows is */
  age_s: number | null;
  /** by all pools today (UTC), in millionths of a dollar */
  spent_micros: number | null;
  models: (ModelScalingView)[];
  /** newest first */
  decisions: (DecisionView)[];
}

export type Scope = "admin" | "client" | "worker";

/** What was seen of a version since its model has this canary. */
export interface SeenView {
  /** first tries, without those at fault themselves */
  attempts: number;
  failures: number;
  /** of the newest 200 runs, for one sample */
  p95_s: number | null;
}

/** Links; `cursor` asks for the next page and is null at the end. */
export interface ShareList {
  shares: (ShareView)[];
  cursor: string | null;
}

/** What whoever has the link may see, and until when. */
export interface ShareRequest {
  /** whether the prompt is shown too */
  with_prompt?: boolean;
  /** when it ends by itself; null for never */
  expires_at?: string | null;
}

/** A link to what came of a task. */
export interface ShareView {
  task_id: string;
  /** a page that needs neither a key nor scripts */
  url: string;
  /** what the link holds, and nobody guesses */
  token: string;
  with_prompt: boolean;
  created_at: string;
  /** null for never */
  expires_at: string | null;
}

/** A picture behind a link: WebP without what its file says of itself. */
export interface SharedPictureView {
  /** at most 2048 px wide */
  url: string;
  /** the same, at most 512 px wide */
  thumbnail_url: string;
  /** of the picture at `url`, in px */
  width: number | null;
  height: number | null;
}

/** What whoever has a link may know of a task, and no more. */
export interface SharedView {
  model: string;
  /** null where it is not shown */
  prompt: string | null;
  seed: number | null;
  /** numbers, switches and choices of the input; no text and no file */
  settings: Record<string, unknown>;
  made_at: string;
  expires_at: string | null;
  pictures: (SharedPictureView)[];
}

/** Which secrets there are to sign URLs, without themselves. */
export interface SigningView {
  /** when the newest begins to sign */
  signs_from: string;
  /** when the last URL signed before ends; null for at once */
  others_until: string | null;
}

/** A phase as an interval, in seconds since its startup began; phases may overlap. */
export interface SpanView {
  /** boot, pull, import, fetch, load, warm or first_task */
  phase: string;
  /** null for what is done for all models together */
  model: string | null;
  start_s: number;
  /** null while it is under way, or where the startup died in it */
  end_s: number | null;
  /** what made it short: fork, compiled, host, disk, bucket; empty for nothing */
  from: string;
}

/** How long a model took, as its author measured it. Args: device: Such as `one core of an Apple M2` or `NVIDIA L4`. what: Such as `512 x 512, 12 steps`. took_s: Seconds. measured_on: Day, such as `2026-11-25`; empty where it is not known. */
export interface Speed {
  device: string;
  what: string;
  took_s: number;
  measured_on: string;
}

/** One model's part in a pipeline. */
export interface Stage {
  name: string;
  queue: string;
  take: Record<string, string | (string)[]>;
  fixed: Record<string, unknown>;
  when: string;
  reject: string;
  reason: string;
  counts: boolean;
}

/** A stage of a pipeline. */
export interface StageView {
  name: string;
  model: string;
  version: string;
  /** `succeeded`, `skipped` (its condition did not hold), `waiting` for an earlier stage, `not_reached` where the task ended before; else that of the task */
  state: string;
  output: unknown | null;
  artifacts: (ArtifactView)[];
  /** how many it took so far, of the task's own */
  attempts: number;
  worker: string | null;
  started_at: string | null;
  finished_at: string | null;
  timings: Timings | null;
  /** what the attempt's share of the device cost, in millionths of a dollar; null before its end, and where the pool has no price */
  cost_micros: number | null;
  seed: number | null;
}

/** What is left of one limit. */
export interface StandingView {
  /** as in the headers, such as `samples-day` */
  name: string;
  /** null for the key itself */
  user: string | null;
  /** tasks, samples, micros or credits */
  unit: string;
  /** the day or month (UTC); null for credits */
  period: string | null;
  limit: number;
  left: number;
}

/** A cold start of a worker, a restart of its model process, or a switch of models. */
export interface StartupView {
  id: string;
  /** cold, restart or switch */
  kind: string;
  /** starting, died, ready or done (the first outcome) */
  state: string;
  pool: string;
  models: (string)[];
  host: string;
  pid: number;
  begun_at: string | null;
  seen_at: string | null;
  /** from its beginning until tasks are taken */
  ready_s: number | null;
  /** that and the first task, without the wait for it */
  whole_s: number | null;
  spans: (SpanView)[];
}

/** A stored output file. */
export interface StoredView {
  key: string;
  bytes: number;
  content_type: string;
  etag: string;
}

/** Styles, in the order in which they are shown. */
export interface StyleList {
  styles: (StyleView)[];
}

/** A style that people choose by a picture. */
export interface StyleView {
  name: string;
  label: string;
  /** language → label */
  labels: Record<string, string>;
  /** what becomes of a prompt, which stands at `{prompt}`; empty for it */
  prompt: string;
  /** what it sets of a model's input */
  input: Record<string, unknown>;
  /** which it is for; empty for any */
  models: (string)[];
  /** the URL needs no key, and always shows the same */
  picture: string | null;
}

/** How often a worker has brought or changed a model, since it started. */
export interface SwitchesView {
  /** loaded anew */
  disk: number;
  /** brought back from the host's memory */
  host: number;
  /** other LoRAs put on its weights */
  loras: number;
}

/** Why a task failed. */
export interface TaskError {
  code: string;
  title: string;
  detail: string;
}

/** Tasks, newest first; `cursor` asks for the next page and is null at the end. */
export interface TaskList {
  tasks: (TaskView)[];
  cursor: string | null;
}

/** What is asked of a model. */
export interface TaskRequest {
  /** `owner/name`, or `owner/name:version` to insist on one version */
  model: string;
  /** The model's input; GET /v1/models/{owner}/{name} shows its schema */
  input: Record<string, unknown>;
  /** how many samples (pictures) */
  count?: number;
  /** 0 comes first among a key's own tasks; 2 or more lets usual tasks go first, of twenty all but one */
  priority?: number;
  class?: string | null;
  seed?: number | null;
  user?: string | null;
  start_by_s?: number | null;
  finish_by_s?: number | null;
  /** what may be changed where it would miss a deadline, or nobody can run it */
  degrade?: DegradeRequest | null;
  /** attempts in all, lost workers included */
  max_attempts?: number;
  /** any JSON up to 16 KiB; given back as it came */
  metadata?: Record<string, unknown> | unknown[] | string | number | boolean | null;
  webhook?: string | WebhookRequest | null;
}

export type TaskState = "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded";

/** Where to go on from a task. */
export interface TaskUrls {
  get: string;
  cancel: string;
  events: string;
}

/** A task. */
export interface TaskView {
  id: string;
  model: string;
  version: string;
  state: TaskState;
  input: Record<string, unknown>;
  output: unknown | null;
  artifacts: (ArtifactView)[];
  error: TaskError | null;
  attempt: number;
  max_attempts: number;
  /** 1 is next; null unless it waits */
  position: number | null;
  /** seconds until it ends; null before any measurement */
  eta_s: EtaSeconds | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  timings: Timings | null;
  /** what the last attempt's share of the device cost, in millionths of a dollar; null before its end, and where the pool has no price */
  cost_micros: number | null;
  seed: number | null;
  user: string | null;
  metadata: unknown | null;
  /** what was removed since the end: `inputs` (metadata too), `outputs` */
  data_removed: (string)[];
  urls: TaskUrls;
  /** what was changed so that it could be accepted; left out if nothing was */
  degraded?: (ChangeView)[];
  /** where its trace is found; told with telemetry.in_tasks */
  trace_id?: string;
  /** of a pipeline: its stages in order, with what each gave */
  stages?: (StageView)[];
  /** where is told of it, if it names that */
  webhook?: WebhookView;
  /** in lists: places of the artifacts that the viewer likes, if any */
  favourites?: (number)[];
}

/** Where the time went, in seconds. `queue_s` covers everything before the last attempt. `device_s` is the attempt's share of the device: with others beside it less than `run_s`. None where it is `run_s`, and of a worker that does not tell it. `paid_micros` is what the attempt has paid to others, such as an API, in millionths of a dollar. `cost_micros` is that and what its share of the device costs, where the pool has a price; the backend sets it, and shows it beside the timings. Of a pipeline's run they are the sums over the attempts by which its stages ended, and `queue_s` is what it waited in the queues of its stages. */
export interface Timings {
  queue_s: number;
  load_s: number;
  run_s: number;
  encode_s: number;
  upload_s: number;
  device_s: number | null;
  cost_micros: number | null;
  paid_micros: number;
}

/** One attempt to deliver. */
export interface TryView {
  at: string;
  took_s: number;
  status: number | null;
  /** `timeout`, `connection`, `refused_url`, `redirect`, `gone`, `status`, `unsendable` or `internal`; empty where it succeeded */
  error: string;
  detail: string;
  /** the beginning of what was answered */
  answer: string;
}

/** A stored input file; the URL is signed and expires. */
export interface UploadView {
  key: string;
  url: string;
  content_type: string;
  bytes: number;
  expires_at: string;
}

/** What was found out about a canary. */
export interface VerdictView {
  /** `early` (nobody can tell yet), `fine`, or `worse` */
  verdict: string;
  reason: string;
  /** how many times more likely a canary that fails more makes what was seen */
  failures_evidence: number;
  /** the same for one that takes longer */
  slowness_evidence: number;
  /** from here on it counts as worse */
  needed_evidence: number;
  canary: SeenView;
  live: SeenView;
}

/** How far one version is adopted. */
export interface VersionStageView {
  version: string;
  /** `trial`, `canary`, `live` or `retired` */
  stage: string;
  /** of the tasks that name no version, as far as it is served */
  share: number;
  /** that have it and were heard of lately (30 s) */
  workers: number;
  registered_at: string | null;
}

/** Which one of a row is better, or that all are as good. */
export interface VoteRequest {
  /** from 0 on */
  row: number;
  winner?: number | null;
  /** all in the row are as good; then there is no `winner` */
  tie?: boolean;
  /** who says so; empty for the key itself */
  voter?: string;
}

/** A vote as it is kept. */
export interface VoteView {
  row: number;
  winner: number | null;
  tie: boolean;
  voter: string;
  at: string;
}

/** Where to tell of a task, and of what. */
export interface WebhookRequest {
  /** http or https, on a public host, without a name or password */
  url: string;
  /** which events are told; the ends of tasks else */
  events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
  /** which of the key's signing secrets signs */
  secret?: string;
  /** how bodies are written: `native`, or a façade's name */
  format?: string;
}

/** Where is told of a task, and of what. */
export interface WebhookView {
  url: string;
  events: (string)[];
  format: string;
}

/** Workers, oldest first. */
export interface WorkerList {
  workers: (WorkerView)[];
  /** cold starts of workers that are not ready yet */
  starting: (StartupView)[];
}

/** A worker. */
export interface WorkerView {
  id: string;
  name: string;
  pool: string;
  /** idle, busy, draining, lost or gone */
  state: string;
  models: Record<string, string>;
  slots: number;
  /** tasks under lease, as this backend knows */
  held: number;
  /** models on its device; null where all always are, or it has not told */
  residents: (string)[] | null;
  /** model → how often it was brought or changed, as this backend knows */
  switches: Record<string, SwitchesView>;
  device: string;
  host: string;
  pid: number;
  /** its machine at whoever launched it; null if nobody did */
  instance: string | null;
  /** version of Swell */
  release: string;
  /** how far its clock was ahead of this one when it registered */
  clock_ahead_s: number;
  registered_at: string;
  seen_at: string;
  gone_at: string | null;
  /** its cold start, phase by phase; null where it has not told */
  startup: StartupView | null;
}

/** Every operation: what it takes and what it answers. */
export interface Paths {
  "POST /v1/tasks": { body: TaskRequest; answer: TaskView };
  "POST /v1/tasks/batch": { body: BatchRequest; answer: BatchView };
  "POST /v1/estimate": { body: TaskRequest; answer: EstimateView };
  "GET /v1/quota": { query: { user?: string }; answer: AllowanceView };
  "GET /v1/tasks": { query: { state?: "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded"; model?: string; user?: string; q?: string; since?: string; until?: string; viewer?: string; favourite?: boolean; cursor?: string; limit?: number }; answer: TaskList };
  "GET /v1/tasks/{id}": { path: { id: string }; answer: TaskView };
  "DELETE /v1/tasks/{id}": { path: { id: string }; answer: TaskView };
  "POST /v1/tasks/{id}/cancel": { path: { id: string }; answer: TaskView };
  "POST /v1/tasks/{id}/retry": { path: { id: string }; answer: TaskView };
  "GET /v1/tasks/{id}/events": { path: { id: string }; query: { after?: number }; answer: unknown };
  "PUT /v1/tasks/{id}/favourite": { path: { id: string }; query: { artifact?: number; viewer?: string }; answer: FavouritesView };
  "DELETE /v1/tasks/{id}/favourite": { path: { id: string }; query: { artifact?: number; viewer?: string }; answer: FavouritesView };
  "POST /v1/tasks/{id}/share": { path: { id: string }; body: ShareRequest; answer: ShareView };
  "GET /v1/tasks/{id}/share": { path: { id: string }; answer: ShareView };
  "DELETE /v1/tasks/{id}/share": { path: { id: string }; answer: ShareView };
  "GET /v1/shares": { query: { task_id?: string; cursor?: string; limit?: number }; answer: ShareList };
  "GET /v1/shares/{token}": { path: { token: string }; answer: SharedView };
  "GET /v1/shares/{token}/pictures/{number}": { path: { token: string; number: string }; query: { w?: number }; answer: unknown };
  "GET /v1/models": { answer: ModelList };
  "GET /v1/models/{owner}/{name}": { path: { owner: string; name: string }; answer: ModelView };
  "GET /v1/models/{owner}/{name}/versions": { path: { owner: string; name: string }; answer: ModelList };
  "GET /v1/models/{owner}/{name}/samples/{digest}": { path: { owner: string; name: string; digest: string }; answer: unknown };
  "GET /v1/models/{owner}/{name}/adoption": { path: { owner: string; name: string }; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/canary": { path: { owner: string; name: string }; body: CanaryRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/promote": { path: { owner: string; name: string }; body: PromoteRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/rollback": { path: { owner: string; name: string }; body: RollbackRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/retire": { path: { owner: string; name: string }; body: RetireRequest; answer: AdoptionView };
  "GET /v1/styles": { answer: StyleList };
  "GET /v1/styles/{digest}": { path: { digest: string }; answer: unknown };
  "POST /v1/uploads": { query: { filename?: string }; answer: UploadView };
  "GET /v1/artifacts/{key}": { path: { key: string }; answer: unknown };
  "PUT /v1/artifacts/{key}": { path: { key: string }; answer: StoredView };
  "POST /v1/comparisons": { body: ComparisonRequest; answer: NewComparisonView };
  "GET /v1/comparisons": { query: { cursor?: string; limit?: number }; answer: ComparisonList };
  "GET /v1/comparisons/{id}": { path: { id: string }; query: { voter?: string; names?: boolean }; answer: ComparisonView };
  "POST /v1/comparisons/{id}/votes": { path: { id: string }; body: VoteRequest; answer: VoteView };
  "POST /v1/comparisons/{id}/ballots": { path: { id: string }; body: BallotRequest; answer: VoteView };
  "POST /v1/comparisons/{id}/close": { path: { id: string }; answer: ComparisonView };
  "DELETE /v1/comparisons/{id}": { path: { id: string }; answer: ComparisonView };
  "GET /v1/ratings": { answer: RatingList };
  "POST /v1/webhooks": { body: EndpointRequest; answer: EndpointView };
  "GET /v1/webhooks": { answer: EndpointList };
  "GET /v1/webhooks/secrets/{name}": { path: { name: string }; answer: HookSecretView };
  "POST /v1/webhooks/secrets/{name}/rotate": { path: { name: string }; body: HookRotateRequest; answer: HookSecretView };
  "GET /v1/webhooks/{id}": { path: { id: string }; answer: EndpointView };
  "DELETE /v1/webhooks/{id}": { path: { id: string }; answer: EndpointView };
  "POST /v1/webhooks/{id}/pause": { path: { id: string }; answer: EndpointView };
  "POST /v1/webhooks/{id}/resume": { path: { id: string }; answer: EndpointView };
  "GET /v1/webhooks/{id}/secret": { path: { id: string }; answer: HookSecretView };
  "POST /v1/webhooks/{id}/rotate": { path: { id: string }; body: HookRotateRequest; answer: EndpointView };
  "POST /v1/webhooks/{id}/replay": { path: { id: string }; body: HookReplayRequest; answer: HookReplayView };
  "GET /v1/webhooks/deliveries": { query: { task?: string; endpoint?: string; state?: "delivered" | "failed" | "skipped" | "waiting"; limit?: number; cursor?: string }; answer: DeliveryList };
  "GET /v1/webhooks/deliveries/{id}": { path: { id: string }; answer: DeliveryView };
  "POST /v1/webhooks/deliveries/{id}/replay": { path: { id: string }; answer: DeliveryView };
  "GET /v1/queues": { answer: QueueList };
  "GET /v1/workers": { query: { gone?: boolean }; answer: WorkerList };
  "POST /v1/workers/{id}/drain": { path: { id: string }; answer: WorkerView };
  "GET /v1/pools": { answer: PoolList };
  "GET /v1/scaling": { query: { limit?: number }; answer: ScalingView };
  "GET /v1/costs": { query: { from?: string; to?: string; by?: "day" | "key" | "model" | "pool" | "user"; limit?: number }; answer: CostsList };
  "GET /v1/ledger": { query: { limit?: number; cursor?: number }; answer: LedgerList };
  "GET /v1/dead": { query: { model?: string; cursor?: string; limit?: number }; answer: TaskList };
  "POST /v1/dead/{id}/replay": { path: { id: string }; answer: TaskView };
  "POST /v1/dead/replay": { body: DeadReplayRequest; answer: DeadReplayView };
  "GET /v1/quotas": { answer: QuotaList };
  "PUT /v1/quotas": { body: QuotaRequest; answer: QuotaView };
  "DELETE /v1/quotas": { query: { key_id?: string; user?: string }; answer: QuotaList };
  "GET /v1/credits": { query: { key_id?: string; limit?: number }; answer: CreditsList };
  "POST /v1/credits": { body: CreditRequest; answer: GrantView };
  "POST /v1/keys": { body: KeyRequest; answer: NewKeyView };
  "GET /v1/keys": { answer: KeyList };
  "GET /v1/keys/self": { answer: KeyView };
  "DELETE /v1/keys/{id}": { path: { id: string }; answer: KeyView };
  "POST /v1/keys/{id}/rotate": { path: { id: string }; body: RotateRequest; answer: NewKeyView };
  "POST /v1/signing/rotate": { body: RotateSigningRequest; answer: SigningView };
  "GET /v1/audit": { query: { cursor?: string; limit?: number }; answer: AuditList };
  "GET /health/live": { answer: HealthView };
  "GET /health/ready": { answer: HealthView };
  "GET /metrics": { answer: unknown };
  "GET /openapi.json": { answer: Record<string, unknown> };
  "GET /llms.txt": { answer: unknown };
}
