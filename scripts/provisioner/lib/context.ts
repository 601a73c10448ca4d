/** What a recipe works with: its settings, its named steps, and when it has to be done. */
import { Failure, send, type Start } from "./protocol.js";

/** A setting that a recipe knows. */
export interface Setting {
  /** For people. */
  about: string;
  required?: boolean;
}

/** One service's recipe; the default export of its file in recipes/. */
export interface Recipe {
  /** What keys are got of. */
  service: string;
  /** Every setting that it knows; others are refused. */
  settings: Record<string, Setting>;
  /** Gets a key. */
  run(context: Context): Promise<string>;
  /** Looks whether that would work, and makes nothing. */
  check(context: Context): Promise<void>;
}

export class Context {
  /** The step that is being taken. */
  current = "begin";
  private percent = 0;
  private readonly end: number;

  constructor(
    private readonly start: Start,
    readonly signal: AbortSignal,
  ) {
    this.end = Date.now() + start.seconds * 1000;
  }

  /** A setting, or what is taken where it is not set. */
  setting(name: string, otherwise?: string): string {
    const value = this.start.settings[name] ?? otherwise;
    if (value === undefined) throw new Failure("wrong_settings", `the setting ${name} is missing`);
    return value;
  }

  /** The provider's secret, if it was given one. */
  get secret(): string | undefined {
    return this.start.secret;
  }

  /** Where a picture may be put. */
  get screenshot(): string | undefined {
    return this.start.screenshot;
  }

  /** The time that is left, in milliseconds. */
  left(): number {
    return Math.max(0, this.end - Date.now());
  }

  /** Takes a step. What fails in it is told with its name. */
  async step<T>(name: string, percent: number, work: () => Promise<T>): Promise<T> {
    this.current = name;
    this.percent = Math.max(this.percent, percent);
    await send({ type: "progress", step: name, percent: this.percent });
    this.signal.throwIfAborted();
    return await work();
  }
}

/** Refuses settings that a recipe does not know, and names the first. */
export function checkSettings(recipe: Recipe, start: Start): void {
  for (const name of Object.keys(start.settings)) {
    if (!Object.hasOwn(recipe.settings, name)) {
      const known = Object.keys(recipe.settings).filter((known) => known !== "tag");
      throw new Failure("wrong_settings", `${name} is none; there are: ${known.join(", ")}`);
    }
  }
  if (start.mode === "check") return;
  for (const [name, { required }] of Object.entries(recipe.settings)) {
    if (required && !start.settings[name]) {
      throw new Failure("wrong_settings", `the setting ${name} is missing`);
    }
  }
}
