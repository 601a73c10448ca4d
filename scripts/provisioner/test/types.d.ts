/** The little that the tests use of nodemailer, which brings no types along. */
declare module "nodemailer" {
  export function createTransport(options: object): {
    sendMail(mail: object): Promise<unknown>;
    close(): void;
  };
}
